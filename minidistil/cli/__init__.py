"""The command `minidistil`: a module per group of verbs. Importing it is cheap; verbs import what they use."""
