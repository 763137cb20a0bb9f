"""journal → [payments] → payment.status, page, command line. What became of each payment, and what a day took in.

Follows the log behind everything else and keeps an index of its payments. Never holds, refunds or drops a payment, and
never says that one may be charged again unless the cloud has declined it.
"""
