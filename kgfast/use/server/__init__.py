"""A trained run behind HTTP: `kgfast serve RUN`.

    serve.py   a socket and uvicorn        batching.py  concurrent requests in one fused call
    app.py     what each address answers   guard.py     limits of bodies and time, headers of every response
    forms.py   what requests may hold      page/        the page at /

Needs `pip install "kgfast[serve]"`.
"""
