"""The countries of the world and their neighbours, languages, rivers and organisations: see build.py."""
