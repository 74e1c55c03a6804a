"""What everything stands on: names and their codes, checks of arguments, lists of lists, known triples."""
