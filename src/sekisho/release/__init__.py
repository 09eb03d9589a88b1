"""Release: only what is signed, complete and approved can be deployed, and an auditor can prove it."""
