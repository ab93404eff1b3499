//! Socket buffers on Linux.

use rustix::net::sockopt;
use socket2::Socket;

/// Asks for `bytes` in each direction. Above `net.core.rmem_max` that needs `CAP_NET_ADMIN`; without it the
/// kernel grants what it allows, and a smaller buffer only means that bursts are dropped earlier.
pub(crate) fn enlarge(socket: &Socket, bytes: usize) {
    if sockopt::set_socket_recv_buffer_size_force(socket, bytes).is_err() {
        let _ = socket.set_recv_buffer_size(bytes);
    }
    let _ = socket.set_send_buffer_size(bytes);
}
