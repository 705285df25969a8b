// The evening of 5 May 2021 as it should have been: what the screenshots show.
import { RoomKind } from '../src/gen/bongsu/edge/v1/room_pb';
import type { FakeServer } from './fakeserver';

const texts = {
  ko: {
    me: '하린', mom: '엄마', dad: '아빠', sis: '서준', jimin: '지민', echo: '메아리', family: '우리 가족', ops: '운영 당직', club: '동네 배드민턴',
    talk: [
      ['mom', '어린이날인데 애들 뭐 하니?'], ['mom', '사진 좀 보내 봐'], ['me', '지금 막 들어왔어요. 씻기고 보낼게요', 2],
      ['sis', '저희도 방금 도착! 놀이공원에 사람 엄청 많더라고요 😂'], ['sis', '애들은 차에서 벌써 잠들었어요'], ['me', '고생했다 ㅎㅎ 내일 몇 시에 모이는 거죠?'],
      ['dad', '차 많이 막히지? 내일은 일찍 출발하고, 도착하면 전화해라'], ['mom', '점심은 여기서 먹자. 반찬 다 해 놨다'],
    ],
    reply: '네! 도착하면 바로 전화드릴게요', pending: '사진도 곧 보낼게요', jiminSays: ['오늘 재밌었어', '그거 내일 가져다줄게!'],
    opsSays: ['21:47부터 존 B 링크가 끊겼습니다. 메시지는 정상입니다.', '리더 이전 0.6초. 대기 중인 전송 모두 완료', '링크 복구 확인 중입니다', '교체 장비 도착', '존 B 이전 끝났습니다. 유실 0건'],
    clubSays: '이번 주 토요일 오전 7시, 체육관 2번 코트!', note: '우산, 충전기, 서류', echoSays: '안녕하세요! 무엇이든 말해 보세요', others: ['민서', '도윤', '하준', '수아', '지호', '예준', '유나', '은우', '시우'],
  },
  en: {
    me: 'Harin', mom: 'Mom', dad: 'Dad', sis: 'Theo', jimin: 'Jimin', echo: 'Echo', family: 'Our family', ops: 'On-call', club: 'Badminton club',
    talk: [
      ['mom', 'Children’s Day! What are the little ones up to?'], ['mom', 'Do send some photos'], ['me', 'We just came in. Bath first, photos after', 2],
      ['sis', 'We just arrived too! The park was packed 😂'], ['sis', 'They fell asleep in the car already'], ['me', 'Well done :) What time do we meet tomorrow?'],
      ['dad', 'Lots of traffic? Leave early tomorrow, and call when you arrive'], ['mom', 'Lunch is here. Everything is ready'],
    ],
    reply: 'Yes! I’ll call as soon as we are there', pending: 'Photos are coming', jiminSays: ['Today was fun', 'I’ll bring it tomorrow!'],
    opsSays: ['Link to zone B down since 21:47. Messages unaffected.', 'Leaders moved in 0.6 s, all waiting sends done', 'Checking the link', 'Spare device arrived', 'Zone B is moved. Nothing lost'],
    clubSays: 'Saturday 7 am, court 2!', note: 'Umbrella, charger, papers', echoSays: 'Hello! Say anything you like', others: ['Mina', 'Doyun', 'Hajun', 'Sua', 'Jiho', 'Yejun', 'Yuna', 'Eunwoo', 'Siwoo'],
  },
} as const;

/** 21:52 in Seoul; the browser's clock is set to it too. */
export const evening = Date.UTC(2021, 4, 5, 12, 52, 30);

export function paint(server: FakeServer, language: 'ko' | 'en'): void {
  const w = texts[language];
  const at = (hour: number, minute: number, daysAgo = 0) => Date.UTC(2021, 4, 5 - daysAgo, hour - 9, minute, 10);
  const add = (login: string, name: string, bot = false) => server.addAccount(login, name, 'correct-horse-battery', bot).user.userId;
  const ids = { echo: add('echo', w.echo, true), me: add('harin', w.me), mom: add('mom', w.mom), dad: add('dad', w.dad), sis: add('seojun', w.sis), jimin: add('jimin', w.jimin) };
  const rest = w.others.map((name, i) => add('friend' + i, name));
  server.accounts.get(ids.me)!.friends.push(ids.mom, ids.dad, ids.sis, ids.jimin, ...rest.slice(0, 3));

  const notes = server.room(RoomKind.DIRECT, [ids.me]);
  server.say(notes, ids.me, w.note, undefined, 0, at(9, 0, 2));
  const club = server.room(RoomKind.GROUP, [ids.jimin, ids.me, ...rest], w.club);
  server.say(club, ids.jimin, w.clubSays, undefined, 0, at(20, 10, 1));
  server.read(club, ids.me, 1);
  const echo = server.room(RoomKind.DIRECT, [ids.me, ids.echo]);
  server.say(echo, ids.echo, w.echoSays, undefined, 0, at(20, 10));
  server.read(echo, ids.me, 1);
  const ops = server.room(RoomKind.GROUP, [rest[0]!, ids.me, ...rest.slice(1), ids.jimin], w.ops);
  w.opsSays.forEach((text, i) => server.say(ops, rest[i % 3]!, text, undefined, 0, at(21, 27 + i)));
  const direct = server.room(RoomKind.DIRECT, [ids.me, ids.jimin]);
  w.jiminSays.forEach((text, i) => server.say(direct, ids.jimin, text, undefined, 0, at(21, 47 + i)));

  const family = server.room(RoomKind.GROUP, [ids.mom, ids.me, ids.dad, ids.sis], w.family);
  family.notices.length = 0;
  const minutes = [40, 40, 44, 45, 45, 45, 46, 47];
  w.talk.forEach(([who, text, replyTo], i) => server.say(family, ids[who as keyof typeof ids], text, undefined, replyTo ?? 0, at(21, minutes[i]!)));
  server.read(family, ids.me, 6);
  server.read(family, ids.dad, 8);
  server.read(family, ids.mom, 8);
  server.read(family, ids.sis, 6);
  for (const room of server.rooms.values()) for (const notice of room.notices) notice.at = BigInt(at(8, 0, 3));
  // The reply goes through; what follows it waits, as on that evening.
  server.fault = (method, frame) => (method === 'send' && frame.request.case === 'send' && frame.request.value.text === w.pending ? 'ignore' : undefined);
  const typing = () => server.publish(family, { case: 'typing', value: { roomId: family.id, userId: ids.mom } });
  setInterval(typing, 1_000).unref();
}
