"""One file a curriculum: it chooses the tasks of each update. The file's name is the curriculum's name."""
