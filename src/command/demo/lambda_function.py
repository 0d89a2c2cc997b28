"""The function that `waterwheel demo` uploads."""

import platform


def lambda_handler(event, context):
    print(f"greeting {event['name']}, {context.get_remaining_time_in_millis()} ms left")
    return {
        "message": f"Hello, {event['name']}!",
        "from": f"{context.function_name} on Python {platform.python_version()}",
    }
