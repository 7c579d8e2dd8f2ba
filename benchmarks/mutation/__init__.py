"""Change the modules that decide numbers in one place at a time, and count the changes that their tests notice."""
