"""Who works on tasks: in this process, or in actors on Ray; and what becomes of lost ones."""
