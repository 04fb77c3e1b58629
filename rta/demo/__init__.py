"""What `rta demo` plays, and the data that it plays; see PROVENANCE.md."""
