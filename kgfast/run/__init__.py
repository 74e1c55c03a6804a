"""What every run has, of whichever kind: settings, a folder, a clock, files that are whole, a person who looks on."""
