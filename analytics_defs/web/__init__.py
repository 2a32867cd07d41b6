"""The always-on job as a web server: one route = one flow, or one view of the picture that the watch keeps."""
