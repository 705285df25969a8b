// The two-minute tour: the buttons, pressed one after the other, with captions.
// It waits for what it announces and tells the figures that came of it.

const steps = 10;

export class Tour {
  running = false;
  #run = 0; // which start it is: an old one that wakes up ends

  constructor(page) {
    this.page = page;
  }

  stop() {
    this.#run++;
    this.running = false;
    this.page.show(undefined);
    for (const node of this.page.state().nodes) if (hurt(node)) void this.page.press('act', { do: 'heal', node: node.name });
  }

  async start() {
    const run = ++this.#run;
    this.running = true;
    try {
      await this.#go((ms) => this.#rest(run, ms));
    } catch (error) {
      if (error !== stopped) throw error;
      return;
    }
    this.stop();
  }

  async #rest(run, ms) {
    await new Promise((resolve) => setTimeout(resolve, ms));
    if (run !== this.#run) throw stopped;
  }

  async #go(rest) {
    const { page } = this;
    let step = -1;
    const say = async (text, seconds, node) => {
      step++;
      page.show({ text, seconds, node, step, of: steps });
      await rest(seconds * 1000);
    };
    const until = async (check, ms) => {
      for (let waited = 0; !check() && waited < ms; waited += 250) await rest(250);
    };
    const waited = () => page.seconds(page.lastFault()?.longest_ms ?? 0);
    const lost = () => page.state().tally.lost;
    const act = (what, node) => page.press('act', { do: what, node });
    const find = (name) => page.state().nodes.find((n) => n.name === name);
    const well = (name) => until(() => find(name).ready && !hurt(find(name)), 20_000);
    const moved = (name) => until(() => page.state().leaders.every((l) => l !== '' && l !== name), 15_000);
    const w = () => page.words().tour;

    for (const node of page.state().nodes) if (hurt(node)) await act('heal', node.name);
    await say(w().start, 9);

    const first = leader(page.state());
    await say(w().kill(first), 5, first);
    await act('kill', first);
    await moved(first);
    await rest(2500);
    await say(w().killed(waited(), first, lost()), 10, first);
    await act('heal', first);
    await say(w().revive(first), 9, first);
    await well(first);

    const second = leader(page.state(), first);
    await act('freeze', second);
    await say(w().freeze(second), 9, second);
    await moved(second);
    await say(w().frozen(waited()), 7, second);
    await act('heal', second);
    await say(w().thaw(second), 9, second);
    await well(second);

    const third = leader(page.state(), first, second);
    await act('cut', third);
    await say(w().cut(third), 10, third);
    await moved(third);
    await say(w().cutOff(waited(), lost()), 8, third);
    await act('heal', third);
    await well(third);

    page.show({ text: w().audit, seconds: 8, step: steps - 1, of: steps });
    await Promise.all([page.audit(), rest(6000)]);
    page.show({ text: w().end(page.state().tally.acknowledged, lost()), seconds: 12, step: steps, of: steps });
    await rest(14_000);
  }
}

const stopped = new Error('the tour was stopped');

const hurt = (node) => node.dead || node.frozen || node.cut;

/** The node that leads the most, of those that were not chosen yet if there is one. */
function leader(state, ...chosen) {
  const fresh = state.nodes.filter((n) => !chosen.includes(n.name));
  const leads = (n) => state.leaders.filter((l) => l === n.name).length;
  return (fresh.length ? fresh : state.nodes).toSorted((a, b) => leads(b) - leads(a))[0].name;
}
