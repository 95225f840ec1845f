"""Using a student: enlarge images, export to other programs."""
