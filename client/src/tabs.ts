// The tabs of one browser share one cookie session: one refresh serves them
// all, and must name the connections of all.

export type Message =
  | { type: "hello" }
  | { type: "connections"; tab: string; cids: string[] }
  | { type: "token"; sessionId: string; expiresAt: number; named: string[]; extended: string[] }
  | { type: "login"; sessionId: string }
  | { type: "logout" };

/** Connections in one refresh: the server takes no more. */
const mostNamed = 256;

export class Tabs {
  readonly #id = Math.random().toString(36).slice(2);
  readonly #name: string;
  #channel: BroadcastChannel | undefined;
  readonly #others = new Map<string, string[]>();
  #own: string[] = [];

  constructor(name: string, receive: (message: Message) => void) {
    this.#name = name;
    if (typeof BroadcastChannel === "undefined") return;
    this.#channel = new BroadcastChannel(name);
    (this.#channel as { unref?: () => void }).unref?.(); // Node: must not keep a program alive
    this.#channel.onmessage = ({ data }: MessageEvent<Message>) => {
      if (data.type === "hello") this.#announce();
      else if (data.type === "connections") this.#set(data.tab, data.cids);
      else {
        if (data.type === "token") this.forget(data.named, data.extended);
        receive(data);
      }
    };
    this.post({ type: "hello" });
    globalThis.addEventListener?.("pagehide", this.#hide);
    globalThis.addEventListener?.("pageshow", this.#announce);
  }

  post(message: Message): void {
    this.#channel?.postMessage(message);
  }

  /** Tells the other tabs what is live here. */
  announce(cids: string[]): void {
    this.#own = cids;
    this.#announce();
  }

  /** Every live connection this tab knows of, its own first, as many as one request may name. */
  all(): string[] {
    return [...new Set([...this.#own, ...[...this.#others.values()].flat()])].slice(0, mostNamed);
  }

  /** What was named and not extended has ended: a crashed tab cannot say so itself. */
  forget(named: string[], extended: string[]): void {
    const gone = new Set(named.filter((cid) => !extended.includes(cid)));
    for (const [tab, cids] of this.#others) this.#set(tab, cids.filter((cid) => !gone.has(cid)));
  }

  #set(tab: string, cids: string[]): void {
    if (cids.length) this.#others.set(tab, cids);
    else this.#others.delete(tab);
  }

  /** Runs one at a time among all tabs; where there are no Web Locks, each tab for itself. */
  exclusively<T>(run: () => Promise<T>): Promise<T> {
    const locks = globalThis.navigator?.locks;
    return locks ? (locks.request(this.#name, run) as Promise<T>) : run();
  }

  close(): void {
    this.#hide();
    globalThis.removeEventListener?.("pagehide", this.#hide);
    globalThis.removeEventListener?.("pageshow", this.#announce);
    this.#channel?.close();
    this.#channel = undefined;
  }

  readonly #announce = (): void => this.post({ type: "connections", tab: this.#id, cids: this.#own });
  readonly #hide = (): void => this.post({ type: "connections", tab: this.#id, cids: [] });
}
