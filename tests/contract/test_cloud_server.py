"""The cloud contract's journal part over real HTTP: each answer that a box may meet, with what it leaves behind."""

import asyncio
import gzip
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.cloud import wire
from agent.core.chain import ORIGIN, rechash
from agent.receiver import bodies, server
from agent.receiver.ledger import Ledger, export_order
from agent.receiver.export import Show, lines
from agent.receiver.ledger.urls import open_ledger, open_reader
from agent.receiver.server import DEFAULT_LIMITS, Receiver, serving
from agent.receiver.tokens import Tokens
