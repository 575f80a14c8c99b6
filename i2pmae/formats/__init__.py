"""Files to vertices, faces and points: one file per format."""
