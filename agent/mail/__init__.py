"""outbox → [mail] → mail server. One letter to one address at a time, by SMTP.

Owns the connection and what the server's answers mean. Never decides who is told, and keeps nothing.
"""
