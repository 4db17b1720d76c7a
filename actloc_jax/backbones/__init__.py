"""Networks that several systems, or users, can want alone."""
