// The stock client's `io`, for the seed's own code: it says `localhost:3000`, and a test has another
// port; where it says "old_client_id", an application has an id that it has kept (with
// TOKENWIRE_KEEPS_ID; else the word stays). Nothing else is touched: scheme, host and namespace stay
// the seed's.

import { io as stock } from "socket.io-client";

import { kept } from "./resume.mjs";

const { TOKENWIRE_PORT, TOKENWIRE_KEEPS_ID } = process.env;

const filling = (socket) => {
  const own = kept(socket);
  const { emit } = socket;
  socket.emit = (event, ...args) => {
    const old = args[0]?.previousClientId === "old_client_id" ? own() : null;
    return emit.call(socket, event, ...(old === null ? args : [{ ...args[0], previousClientId: old }]));
  };
  return socket;
};

export const io = (url, options) => {
  const socket = stock(url.replace("localhost:3000", `localhost:${TOKENWIRE_PORT}`), options);
  return TOKENWIRE_KEEPS_ID ? filling(socket) : socket;
};
