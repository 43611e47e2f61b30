//! What happens on connect, message and disconnect of a WebSocket.
