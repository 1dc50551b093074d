"""What goes over the wire: requests, responses and errors in OpenAI's words. Knows no HTTP and no Ray.

    {"model": "student", "messages": [{"role": "user", "content": "2 + 2?"}], "max_tokens": 16, "temperature": 0}

A field that is not listed is refused by name, never ignored: a client learns what it will not get. `null` means "not given".
"""
