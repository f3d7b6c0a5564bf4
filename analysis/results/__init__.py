"""What comes out: columns with meaning, unit and role; tidy frames with a manifest; statistics. No torch in here."""
