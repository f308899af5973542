"""Files of texts and labels, and locks of files and folders."""
