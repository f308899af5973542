"""The command `minidistil`, a module per group of verbs. Each verb imports what it needs when it runs."""
