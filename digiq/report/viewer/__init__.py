"""The viewer behind ``digiq view``: episodes with their candidates, Q and V, on a page that needs only a browser."""
