"""Commands: what they share (options, folders of runs, records, the last line), and `learn`."""
