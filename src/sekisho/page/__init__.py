"""Pages for people: blocks of content, their one style, their charts. They need no server and no script."""
