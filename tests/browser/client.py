"""A plain client: sends the lines on stdin and prints what comes, one JSON string in each line."""

import asyncio
import json
import sys

from websockets.asyncio.client import connect


async def main(url):
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)

    async with connect(url) as socket:

        async def print_all():
            async for message in socket:
                print(json.dumps(message), flush=True)

        printing = asyncio.create_task(print_all())
        while line := await lines.readline():
            await socket.send(json.loads(line))
        # The end of stdin: close the connection.
        await socket.close()
        await printing


asyncio.run(main(sys.argv[1]))
