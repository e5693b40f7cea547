"""What a caller knows rows by: integers, or names over them; read, kept, found and written."""
