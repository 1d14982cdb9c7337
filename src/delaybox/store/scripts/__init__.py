"""One Lua file for each atomic step; shared pieces under lib/."""
