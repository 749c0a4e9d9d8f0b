// How an application resumes its streams, where Socket.IO's own recovery does not do it: what the
// seed's snippet does, and what a client with a cursor does.
//
// Rules of this file: an id is good until its session has moved, so it is kept until the server says
// so; a cut between the two loses nothing then. Asked at "connect", as in the snippet.

// Returns what tells the clientId to come back with, or null on a first connection.
export const kept = (socket) => {
  let own = null;
  socket.on("ai:connected", ({ clientId }) => (own ??= clientId));
  socket.on("ai:reconnect:success", ({ newClientId }) => (own = newClientId));
  return () => own;
};

const ask = (socket, more) => {
  const own = kept(socket);
  socket.on("connect", () => {
    if (own() !== null) socket.emit("ai:reconnect", { previousClientId: own(), ...more });
  });
};

const cursor = (socket) => {
  const streams = {};
  socket.on("ai:stream:start", ({ streamId, epoch }) => (streams[streamId] = { seq: 0, epoch }));
  socket.on("ai:token", ({ streamId, seq }) => (streams[streamId].seq = seq));
  ask(socket, { streams });
};

export const resumers = { previous: (socket) => ask(socket, {}), cursor };
