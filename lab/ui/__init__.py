"""The app's pages. They read run folders and start workers; they import no machine-learning library."""
