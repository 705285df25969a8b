// Finds a Chromium to drive; on Debian as root it installs one. Prints its path.
// CHROMIUM names another. Run by `make test-e2e` and `make screenshots`.
import { existsSync } from 'node:fs'
import { spawnSync } from 'node:child_process'

const places = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']

/** The path of an installed Chromium, or undefined. */
export function findChromium() {
  return places.find((p) => p && existsSync(p))
}

function sh(command, args) {
  return spawnSync(command, args, { stdio: 'inherit', env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' } }).status === 0
}

if (import.meta.filename === process.argv[1]) {
  let path = findChromium()
  const apt = existsSync('/usr/bin/apt-get')
  if (!path && apt && process.getuid?.() === 0) {
    console.log('Chromium is missing; installing the packages chromium and fonts-noto-cjk …')
    if (sh('apt-get', ['update', '-qq'])) sh('apt-get', ['install', '-y', '-qq', '--no-install-recommends', 'chromium', 'fonts-noto-cjk', 'fonts-noto-color-emoji'])
    path = findChromium()
  }
  if (!path) {
    console.error(
      'The end-to-end tests need Chromium. On Debian or Ubuntu: sudo apt-get install chromium fonts-noto-cjk\n' +
        'Elsewhere: install Chromium or Chrome and name it: CHROMIUM=/path/to/chromium make test',
    )
    process.exit(1)
  }
  console.log(`Chromium: ${path}`)
}
