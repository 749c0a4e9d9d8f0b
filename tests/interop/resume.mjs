// How an application resumes its streams, where Socket.IO's own recovery does not do it: what the
// seed's snippet does, and what a client with a cursor does.
//
// Rules of this file: an id is good until its session has moved, so it is kept until the server says
// so; a cut between the two loses nothing then. Asked at "connect", as in the snippet.

const previous = (socket, cursors) => {
  let own = null;
  socket.on("connect", () => {
    if (own !== null) socket.emit("ai:reconnect", { previousClientId: own, ...(cursors && { streams: cursors }) });
  });
  socket.on("ai:connected", ({ clientId }) => (own ??= clientId));
  socket.on("ai:reconnect:success", ({ newClientId }) => (own = newClientId));
};

const cursor = (socket) => {
  const cursors = {};
  socket.on("ai:stream:start", ({ streamId, epoch }) => (cursors[streamId] = { seq: 0, epoch }));
  socket.on("ai:token", ({ streamId, seq }) => (cursors[streamId].seq = seq));
  previous(socket, cursors);
};

export const resumers = { previous: (socket) => previous(socket, null), cursor };
