"""journal, drain, uplink, gate → [status] → tills, page, command line. What people and machines see of this box.

Owns the one read model and its retained topic. Never changes anything it looks at, and never shows a payload.
"""
