"""What is on disk: files written whole (`files`), named arrays in them and their checks (`arrays`,
`archives`), arrays of a study looked at before they are opened (`stores`), and `checkpoints`."""
