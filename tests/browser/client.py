"""A plain client that does as it is told: lines on stdin are sent, what comes is printed, one JSON string in each line."""

import asyncio
import json
import sys

from websockets.asyncio.client import connect


async def main(url):
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)

    async with connect(url) as socket:

        async def tell():
            async for message in socket:
                print(json.dumps(message), flush=True)

        telling = asyncio.create_task(tell())
        while line := await lines.readline():
            await socket.send(json.loads(line))
        # The end of stdin: goodbye.
        await socket.close()
        await telling


asyncio.run(main(sys.argv[1]))
