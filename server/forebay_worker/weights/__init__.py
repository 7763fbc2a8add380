"""Weight files: found, checked and read as views of mapped memory. No torch."""
