export { WsBouncer } from "./client.ts";
export { WsBouncerError } from "./errors.ts";
export type { Advice, ErrorCode } from "./codes.ts";
export type { ReconnectingEvent, TokenEvent } from "./events.ts";
export type { BouncedWebSocket, Credentials, Options, Prover, Session, WsBouncerEventMap } from "./types.ts";
