"""The command line: `minidistil VERB`."""
