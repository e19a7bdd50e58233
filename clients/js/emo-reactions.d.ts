/** The taps of one emoji. */
export interface Count {
  emoji: string;
  events: number;
}

/** What a micro-batch brought. All of one `batch_id` add up to that micro-batch. */
export interface Batch {
  batch_id?: number;
  counts: Count[];
  /** When it was counted: compare with `performance.timeOrigin + performance.now()`. */
  at_ms: number;
  /** Whether it is of the last minute, which comes first. */
  recent: boolean;
}

export interface State {
  state: "connecting" | "live" | "polling" | "reconnecting" | "full" | "offline" | "refused";
  /** The state in English. */
  sentence: string;
  /** Why the state is `refused`. */
  reason: string;
}

export interface EmoReactionsEvents {
  "emo-batch": CustomEvent<Batch>;
  "emo-state": CustomEvent<State>;
  "emo-gap": CustomEvent<{ reason: string }>;
}

/** The element <emo-reactions>. Importing this module defines it. */
export class EmoReactions extends HTMLElement {
  /** The emojis of the buttons. */
  readonly emojis: string[];
  /** React as if the viewer had tapped this emoji. */
  tap(emoji: string): void;
  addEventListener<K extends keyof EmoReactionsEvents>(
    type: K,
    listener: (this: EmoReactions, event: EmoReactionsEvents[K]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

declare global {
  interface HTMLElementTagNameMap {
    "emo-reactions": EmoReactions;
  }
  interface DocumentEventMap extends EmoReactionsEvents {}
}
