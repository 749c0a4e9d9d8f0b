// The stock client's `io`, for the seed's own code: it says `localhost:3000`, and a test has another
// port. Nothing else of the address is touched: scheme, host and namespace stay the seed's.

import { io as stock } from "socket.io-client";

const port = process.env.TOKENWIRE_PORT;

export const io = (url, options) => stock(url.replace("localhost:3000", `localhost:${port}`), options);
