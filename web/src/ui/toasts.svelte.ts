// One short sentence at the edge of the screen, after something was done or could not be.
const shownMs = 4_000;

export class Toasts {
  text = $state('');
  private timer?: ReturnType<typeof setTimeout>;

  show(text: string): void {
    this.text = text;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => (this.text = ''), shownMs);
  }
}
