// The three calls that need no socket, as plain JSON over HTTP.
import { fromBinary } from '@bufbuild/protobuf';
import { base64Decode } from '@bufbuild/protobuf/wire';
import type { Session } from '../domain/types';
import type { Platform } from '../platform/platform';
import { ErrorInfoSchema, type ErrorInfo } from '../gen/bongsu/edge/v1/position_pb';
import { WireError, unknownOutcome } from './errors';

const timeoutMs = 15_000;

interface ConnectError {
  code?: string;
  message?: string;
  details?: { type?: string; value?: string }[];
}

/** Codes of answers that carry no Connect error of their own, as a proxy in between gives. */
function codeOfStatus(status: number): string {
  if (status === 429) return 'resource_exhausted';
  if (status >= 500) return 'unavailable';
  // A 401 or 403 without our error body was not said by our server: it decides nothing.
  return 'unknown';
}

export class Rpc {
  constructor(private readonly platform: Platform) {}

  signUp(login: string, password: string, displayName: string): Promise<Session> {
    return this.session('SignUp', login, { login, password, displayName, deviceName: this.platform.deviceName() });
  }

  signIn(login: string, password: string): Promise<Session> {
    return this.session('SignIn', login, { login, password, deviceName: this.platform.deviceName() });
  }

  refresh(refreshToken: string, login: string): Promise<Session> {
    return this.session('Refresh', login, { refreshToken });
  }

  private async session(method: string, login: string, request: unknown): Promise<Session> {
    const s = (await this.call('AccountService/' + method, request)) as Partial<Record<keyof Session, string>>;
    if (!s.userId || !s.accessToken || !s.refreshToken) throw unknownOutcome('the answer is not a session');
    return {
      userId: s.userId, deviceId: s.deviceId ?? '', accessToken: s.accessToken, refreshToken: s.refreshToken,
      expiresAt: Number(s.expiresAt ?? 0), login: login.trim().toLowerCase(),
    };
  }

  private async call(method: string, request: unknown): Promise<unknown> {
    const abort = new AbortController();
    const stop = this.platform.setTimer(() => abort.abort(), timeoutMs);
    try {
      const response = await this.platform.fetch('/bongsu.edge.v1.' + method, {
        method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(request), signal: abort.signal,
      });
      const text = await response.text();
      if (!response.ok) throw fromResponse(response, text);
      return JSON.parse(text) as unknown;
    } catch (error) {
      throw error instanceof WireError ? error : unknownOutcome(String(error));
    } finally {
      stop();
    }
  }
}

function fromResponse(response: Response, text: string): WireError {
  let body: ConnectError = {};
  try {
    body = JSON.parse(text) as ConnectError;
  } catch {
    // Not our server's words; the status alone speaks.
  }
  const info = detail(body);
  const retryAfter = info?.retryAfterSeconds || Number(response.headers.get('retry-after') ?? 0);
  const code = typeof body.code === 'string' ? body.code : codeOfStatus(response.status);
  return new WireError(code, body.message ?? `HTTP ${response.status}`, info?.reason ?? '', info?.field ?? '', Number.isFinite(retryAfter) ? retryAfter : 0);
}

function detail(body: ConnectError): ErrorInfo | undefined {
  const found = body.details?.find((d) => d.type === 'bongsu.edge.v1.ErrorInfo');
  if (!found?.value) return undefined;
  try {
    return fromBinary(ErrorInfoSchema, base64Decode(found.value));
  } catch {
    return undefined;
  }
}
