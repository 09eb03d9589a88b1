# Nothing: who needs the copy names it.
