"""The function that `waterwheel demo` sends ten thousand events to. Some fail, and not all for the same reason."""

import os
import random
import time


def lambda_handler(event, context):
    order = event["order"]
    time.sleep(0.005)
    if order % 100 == 13:
        raise ValueError(f"order {order} names no product")  # No repair helps: the event is wrong.
    if os.environ["WAREHOUSE"] == "closed":
        if order % 10 == 7:
            raise ConnectionError(f"the warehouse of order {order} is closed")  # Until somebody opens it.
        if random.random() < 0.05:
            raise TimeoutError("the warehouse is busy")  # The next try may do better.
    return {"shipped": order}
