"""The reward server, `spct serve`: a judge for trainers on other machines, shared and restartable.

app.py holds the routes, desk.py what is judged and when, wire.py what crosses the network.
Needs the extra `server`; the client (spct_plugin/client.py) needs it not.
"""
