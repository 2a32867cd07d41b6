"""The health endpoint as a web server. Each route runs one flow, or formats the snapshot of the monitor."""
