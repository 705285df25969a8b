package chat

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"google.golang.org/protobuf/encoding/prototext"
)

var update = flag.Bool("update", os.Getenv("BONGSU_UPDATE") == "1", "rewrite scenario transcripts and golden files")

// A scenario file is a script and its transcript in one. Lines that begin at
// the margin are said or done; indented lines under each are what came of it:
//
//	event   recorded in the journal, in words
//	reply   what the asker is answered
//	tell    whom the feed tells what
//
// testdata/README.md explains the sentences. -update rewrites the transcripts.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	reasons := map[string]bool{}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			raw := must(os.ReadFile(file))(t)
			s := newScenario(t)
			got := s.run(string(raw))
			s.w.checkReplicas(t)
			for r := range s.reasons {
				reasons[r] = true
			}
			if got == string(raw) {
				return
			}
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Errorf("the transcript differs from %s (run with -update and review the change):\n%s", file, firstDifference(string(raw), got))
		})
	}
	// Every reason that the rules can give is shown to a reader somewhere.
	for _, r := range Reasons {
		// Text that is not UTF-8 cannot stand in a scenario file: TestTextBounds has it.
		if !reasons[string(r.Reason)] && r.Reason != TextInvalid {
			t.Errorf("no scenario shows the refusal %s", r.Reason)
		}
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		var a, b string
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			return fmt.Sprintf("line %d\n  file: %s\n  now:  %s", i+1, a, b)
		}
	}
	return "only in the end of the file"
}

type scenario struct {
	t       testing.TB
	w       *world
	names   map[id.ID]string
	ids     map[string]id.ID
	clients map[string]string // UUID → name
	reasons map[string]bool
	batch   []*nodev1.Command
	inBatch bool
	broken  string // kind of event whose application panics
	out     strings.Builder
}

func newScenario(t testing.TB) *scenario {
	return &scenario{
		t: t, w: newWorld(3), names: map[id.ID]string{}, ids: map[string]id.ID{},
		clients: map[string]string{}, reasons: map[string]bool{},
	}
}

func (s *scenario) run(text string) string {
	testHookApply = func(ev *journalv1.Event) {
		if s.broken != "" && EventKind(ev) == s.broken {
			panic("broken by the scenario")
		}
	}
	defer func() { testHookApply = nil }()
	for n, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if strings.HasPrefix(line, "    ") {
			continue // an old transcript
		}
		s.out.WriteString(line + "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := s.line(line); err != nil {
			s.t.Fatalf("line %d: %q: %v", n+1, line, err)
		}
	}
	if s.inBatch {
		s.t.Fatal("the batch has no end")
	}
	return s.out.String()
}

func (s *scenario) say(format string, args ...any) {
	fmt.Fprintf(&s.out, "    "+format+"\n", args...)
}

// user returns the ID of the account with this login, existing or not.
func (s *scenario) user(name string) id.ID {
	u := userID(name)
	s.name(u, name)
	return u
}

func (s *scenario) name(i id.ID, name string) {
	s.names[i], s.ids[name] = name, i
}

func (s *scenario) device(user, name string) id.ID {
	d := deviceID(user, name)
	s.name(d, user+"/"+name)
	return d
}

// room is a name given by "create group", or two people "a+b".
func (s *scenario) room(name string) id.ID {
	if i, ok := s.ids[name]; ok {
		return i
	}
	if a, b, ok := strings.Cut(name, "+"); ok {
		r := id.Direct(s.user(a), s.user(b))
		if _, known := s.names[r]; !known {
			s.name(r, name)
		}
		return r
	}
	r := id.Group(id.ID{}, []byte(name)) // a room that nobody has made
	s.name(r, name)
	return r
}

func (s *scenario) client(name string) []byte {
	b := clientID(name)
	s.clients[uuid(b)] = name
	return b
}

func (s *scenario) users(list string) [][]byte {
	var out [][]byte
	for _, n := range strings.Split(list, ",") {
		if n = strings.TrimSpace(n); n != "" {
			out = append(out, s.user(n).Bytes())
		}
	}
	return out
}

// line runs one sentence.
func (s *scenario) line(line string) error {
	switch {
	case strings.HasPrefix(line, "at "):
		c, err := time.Parse("15:04:05", line[3:])
		if err != nil {
			return err
		}
		day := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
		s.w.now = day.Add(time.Duration(c.Hour())*time.Hour + time.Duration(c.Minute())*time.Minute + time.Duration(c.Second())*time.Second).UnixMilli()
		return nil
	case line == "batch":
		s.inBatch = true
		return nil
	case line == "end":
		s.inBatch = false
		cmds := s.batch
		s.batch = nil
		return s.do(cmds...)
	case strings.HasPrefix(line, "break "):
		s.broken = line[6:]
		return nil
	case line == "mend":
		s.broken = ""
		return nil
	case line == "outbox":
		return s.showOutbox()
	case strings.HasPrefix(line, "carry outbox"):
		return s.carry(strings.TrimSpace(line[len("carry outbox"):]))
	case strings.HasPrefix(line, "repeat "):
		return s.repeat(line[7:])
	case strings.HasPrefix(line, "command "):
		cmd, err := s.rawCommand(line[8:])
		if err != nil {
			return err
		}
		return s.do(cmd)
	case strings.HasPrefix(line, "query "):
		return s.rawQuery(line[6:])
	}
	who, what, ok := strings.Cut(line, ": ")
	if !ok {
		return errors.New("not a sentence: want \"who: what\"")
	}
	if handled, err := s.ask(who, what); handled {
		return err
	}
	cmd, err := s.command(who, what)
	if err != nil {
		return err
	}
	if s.inBatch {
		s.batch = append(s.batch, cmd)
		return nil
	}
	return s.do(cmd)
}

// repeat runs "N: sentence" N times with {n} counted from 1, and sums up.
func (s *scenario) repeat(rest string) error {
	count, sentence, ok := strings.Cut(rest, ": ")
	n, err := strconv.Atoi(count)
	if err != nil || !ok {
		return errors.New("want \"repeat N: sentence\"")
	}
	before := s.out.String()
	answers := map[string]int{}
	var order []string
	for i := range n {
		s.out.Reset()
		if err := s.line(strings.ReplaceAll(sentence, "{n}", strconv.Itoa(i+1))); err != nil {
			return err
		}
		for _, l := range strings.Split(s.out.String(), "\n") {
			if reply, ok := strings.CutPrefix(l, "    reply  "); ok {
				word, _, _ := strings.Cut(reply, " ")
				if word == "refused" {
					word = reply
				}
				if answers[word]++; answers[word] == 1 {
					order = append(order, word)
				}
			}
		}
	}
	s.out.Reset()
	s.out.WriteString(before)
	for _, a := range order {
		s.say("%d × %s", answers[a], a)
	}
	return nil
}

func (s *scenario) do(cmds ...*nodev1.Command) error {
	outs, err := s.w.do(cmds...)
	if err != nil {
		return err
	}
	var feed []*nodev1.FeedItem
	for _, out := range outs {
		for _, ev := range out.Events {
			s.say("event  %s", s.event(ev))
		}
		s.say("reply  %s", s.reply(out.Reply))
		feed = append(feed, out.Feed...)
	}
	for _, item := range MergeReads(feed) {
		s.say("tell   %s", s.feed(item))
	}
	return nil
}

var (
	quoted  = regexp.MustCompile(`"([^"]*)"(?:\*(\d+))?`)
	pattern = regexp.MustCompile
)

// literal reads "text" or "text"*count.
func literal(s string) (string, error) {
	m := quoted.FindStringSubmatch(s)
	if m == nil {
		return "", fmt.Errorf("no quoted text in %q", s)
	}
	text := m[1]
	if m[2] != "" {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			return "", err
		}
		text = strings.Repeat(text, n)
	}
	return text, nil
}

const goodHash = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA"

type sentence struct {
	re   *regexp.Regexp
	make func(s *scenario, who string, m []string) (*nodev1.Command, error)
}

func num(text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

var sentences = []sentence{
	{pattern(`^sign up(?: on (\S+))?(?: as (".*"\S*))?(?: with login (\S+))?(?: with friends (.*))?$`), func(s *scenario, who string, m []string) (*nodev1.Command, error) {
		login := who
		user := s.user(who)
		if m[3] != "" { // another account that wants this login
			login = m[3]
			user = id.New(1, id.User, id.LoginPartition(login), unique("user "+who))
			s.name(user, who)
		}
		c := &nodev1.SignUp{UserId: user.Bytes(), Login: login, PasswordHash: goodHash, FriendIds: s.users(m[4])}
		if m[1] != "" {
			c.DeviceId, c.DeviceName = s.device(who, m[1]).Bytes(), m[1]
		}
		if m[2] != "" {
			var err error
			if c.DisplayName, err = literal(m[2]); err != nil {
				return nil, err
			}
		}
		return &nodev1.Command{Kind: &nodev1.Command_SignUp{SignUp: c}}, nil
	}},
	{pattern(`^sign in on (\S+)( with a wrong password)?$`), func(s *scenario, who string, m []string) (*nodev1.Command, error) {
		c := &nodev1.AddDevice{UserId: s.user(who).Bytes(), DeviceId: s.device(who, m[1]).Bytes(), DeviceName: m[1], PasswordHash: goodHash}
		if m[2] != "" {
			c.PasswordHash += "x"
		}
		return &nodev1.Command{Kind: &nodev1.Command_AddDevice{AddDevice: c}}, nil
	}},
	{pattern(`^refresh (\S+) with token (\d+)$`), func(s *scenario, who string, m []string) (*nodev1.Command, error) {
		return &nodev1.Command{Kind: &nodev1.Command_RotateRefresh{RotateRefresh: &nodev1.RotateRefresh{
			UserId: s.user(who).Bytes(), DeviceId: s.device(who, m[1]).Bytes(), Generation: uint32(num(m[2])),
		}}}, nil
	}},
	{pattern(`^use access of (\S+) made with token (\d+)$`), func(s *scenario, who string, m []string) (*nodev1.Command, error) {
		return &nodev1.Command{Kind: &nodev1.Command_ConfirmRefresh{ConfirmRefresh: &nodev1.ConfirmRefresh{
			UserId: s.user(who).Bytes(), DeviceId: s.device(who, m[1]).Bytes(), Generation: uint32(num(m[2])),
		}}}, nil
	}},
	{pattern(`^sign out everywhere$`), func(s *scenario, who string, m []string) (*nodev1.Command, error) {
		return s.by(who, &nodev1.Command{Kind: &nodev1.Command_RevokeDevice{RevokeDevice: &nodev1.RevokeDevice{UserId: s.user(who).Bytes(), All: true}}}), nil
	}},
	{pattern(`^sign out (\S+)$`), func(s *scenario, who string, m []string) (*nodev1.Command, error) {
		owner, name, ok := strings.Cut(m[1], "/")
		if !ok {
			owner, name = who, m[1]
		}
		return s.by(who, &nodev1.Command{Kind: &nodev1.Command_RevokeDevice{RevokeDevice: &nodev1.RevokeDevice{
			UserId: s.user(who).Bytes(), DeviceId: s.device(owner, name).Bytes(),
		}}}), nil
	}},
	{pattern(`^add friend (\S+)$`), func(s *scenario, who string, m []string) (*nodev1.Command, error) {
		return s.by(who, &nodev1.Command{Kind: &nodev1.Command_AddFriend{AddFriend: &nodev1.AddFriend{UserId: s.user(who).Bytes(), FriendId: s.user(m[1]).Bytes()}}}), nil
	}},
	{pattern(`^remove friend (\S+)$`), func(s *scenario, who string, m []string) (*nodev1.Command, error) {
		return s.by(who, &nodev1.Command{Kind: &nodev1.Command_RemoveFriend{RemoveFriend: &nodev1.RemoveFriend{UserId: s.user(who).Bytes(), FriendId: s.user(m[1]).Bytes()}}}), nil
	}},
	{pattern(`^(un)?block (\S+)$`), func(s *scenario, who string, m []string) (*nodev1.Command, error) {
		return s.by(who, &nodev1.Command{Kind: &nodev1.Command_SetBlock{SetBlock: &nodev1.SetBlock{
			UserId: s.user(who).Bytes(), OtherId: s.user(m[2]).Bytes(), Blocked: m[1] == "",
		}}}), nil
	}},
	{pattern(`^open direct with (\S+)$`), func(s *scenario, who string, m []string) (*nodev1.Command, error) {
		return s.by(who, &nodev1.Command{Kind: &nodev1.Command_OpenDirect{OpenDirect: &nodev1.OpenDirect{
			RoomId: s.room(who + "+" + m[1]).Bytes(), OtherId: s.user(m[1]).Bytes(),
		}}}), nil
	}},
	{pattern(`^create group (\S+) (".*?"\S*)(?: with (.*))?$`), func(s *scenario, who string, m []string) (*nodev1.Command, error) {
		title, err := literal(m[2])
		if err != nil {
			return nil, err
		}
		if _, known := s.ids[m[1]]; !known {
			s.name(id.Group(s.user(who), []byte(m[1])), m[1])
		}
		return s.by(who, &nodev1.Command{Kind: &nodev1.Command_CreateGroup{CreateGroup: &nodev1.CreateGroup{
			RoomId: s.room(m[1]).Bytes(), Title: title, MemberIds: s.users(m[3]),
		}}}), nil
	}},
	{pattern(`^invite (.*?) ?to (\S+)$`), func(s *scenario, who string, m []string) (*nodev1.Command, error) {
		return s.by(who, &nodev1.Command{Kind: &nodev1.Command_Invite{Invite: &nodev1.Invite{RoomId: s.room(m[2]).Bytes(), MemberIds: s.users(m[1])}}}), nil
	}},
	{pattern(`^leave (\S+)$`), func(s *scenario, who string, m []string) (*nodev1.Command, error) {
		return s.by(who, &nodev1.Command{Kind: &nodev1.Command_Leave{Leave: &nodev1.Leave{RoomId: s.room(m[1]).Bytes()}}}), nil
	}},
	{pattern(`^title (\S+) (".*"\S*)$`), func(s *scenario, who string, m []string) (*nodev1.Command, error) {
		title, err := literal(m[2])
		return s.by(who, &nodev1.Command{Kind: &nodev1.Command_SetTitle{SetTitle: &nodev1.SetTitle{RoomId: s.room(m[1]).Bytes(), Title: title}}}), err
	}},
	{pattern(`^send (\S+) (".*"\S*) as (\S+?)(?: replying to (\d+))?$`), func(s *scenario, who string, m []string) (*nodev1.Command, error) {
		text, err := literal(m[2])
		return s.by(who, &nodev1.Command{Kind: &nodev1.Command_Send{Send: &nodev1.Send{
			RoomId: s.room(m[1]).Bytes(), ClientId: s.client(m[3]), Text: text, ReplyTo: num(m[4]),
		}}}), err
	}},
	{pattern(`^read (\S+) up to (\d+)$`), func(s *scenario, who string, m []string) (*nodev1.Command, error) {
		return s.by(who, &nodev1.Command{Kind: &nodev1.Command_MarkRead{MarkRead: &nodev1.MarkRead{RoomId: s.room(m[1]).Bytes(), Seq: num(m[2])}}}), nil
	}},
}

func (s *scenario) by(who string, cmd *nodev1.Command) *nodev1.Command {
	cmd.Actor = s.user(who).Bytes()
	return cmd
}

func (s *scenario) command(who, what string) (*nodev1.Command, error) {
	for _, f := range sentences {
		if m := f.re.FindStringSubmatch(what); m != nil {
			return f.make(s, who, m)
		}
	}
	return nil, fmt.Errorf("nobody knows how to %q", what)
}

// named replaces @name by the bytes of that ID, for prototext.
func (s *scenario) named(text string) string {
	return pattern(`@[\w/+]+`).ReplaceAllStringFunc(text, func(m string) string {
		i, ok := s.ids[m[1:]]
		if !ok {
			s.t.Fatalf("nobody has heard of %s", m)
		}
		var b strings.Builder
		for _, c := range i {
			fmt.Fprintf(&b, `\%03o`, c)
		}
		return `"` + b.String() + `"`
	})
}

func (s *scenario) rawCommand(text string) (*nodev1.Command, error) {
	cmd := &nodev1.Command{}
	return cmd, prototext.Unmarshal([]byte(s.named(text)), cmd)
}

func (s *scenario) rawQuery(text string) error {
	q := &nodev1.Query{}
	if err := prototext.Unmarshal([]byte(s.named(text)), q); err != nil {
		return err
	}
	p, err := QueryPartition(q)
	if no := (*Refusal)(nil); errors.As(err, &no) {
		s.say("answer %s", s.refused(no.Edge()))
		return nil
	}
	if err != nil {
		return err
	}
	return s.query(s.w.shardOf(p), q)
}

func (s *scenario) showOutbox() error {
	items, _, err := s.w.outbox()
	if err != nil {
		return err
	}
	if len(items) == 0 {
		s.say("(empty)")
	}
	var lines []string
	for _, it := range items {
		lines = append(lines, s.effect(it.Effect))
	}
	slices.Sort(lines) // keys come in the order of hashes, which tells a reader nothing
	for _, l := range lines {
		s.say("%s", l)
	}
	return nil
}

// carry brings every effect to its target and finishes it.
func (s *scenario) carry(how string) error {
	items, shards, err := s.w.outbox()
	if err != nil {
		return err
	}
	order := make([]int, len(items))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return strings.Compare(s.effect(items[a].Effect), s.effect(items[b].Effect))
	})
	times := 1
	switch how {
	case "", "but do not finish":
	case "in reverse":
		slices.Reverse(order)
	case "twice":
		times = 2
	default:
		return fmt.Errorf("carry %q?", how)
	}
	for range times {
		for _, i := range order {
			s.say("effect %s", s.effect(items[i].Effect))
			if err := s.do(applyEffect(items[i].Effect)); err != nil {
				return err
			}
		}
	}
	if how == "but do not finish" {
		return nil
	}
	for _, i := range order {
		outs, err := s.w.do(finishEffects(shards[i], items[i].Key))
		if err != nil || outs[0].Reply.GetError() != nil {
			return fmt.Errorf("finish: %v %v", err, outs[0].Reply.GetError())
		}
	}
	return nil
}

var historyWords = regexp.MustCompile(`^history (\S+)(?: before (\d+))?(?: after (\d+))?(?: limit (\d+))?$`)

// ask answers the sentences that only read.
func (s *scenario) ask(who, what string) (bool, error) {
	actor := s.user(who)
	if m := historyWords.FindStringSubmatch(what); m != nil {
		room := s.room(m[1])
		h := &nodev1.HistoryQuery{RoomId: room.Bytes(), BeforeSeq: num(m[2]), Limit: uint32(num(m[4]))}
		if m[3] != "" {
			after := num(m[3])
			h.AfterSeq = &after
		}
		return true, s.query(s.w.shardOf(room.Partition()), &nodev1.Query{Actor: actor.Bytes(), Kind: &nodev1.Query_History{History: h}})
	}
	verb, object, _ := strings.Cut(what, " ")
	q := &nodev1.Query{Actor: actor.Bytes()}
	at := actor
	switch verb {
	case "look":
		at = s.room(strings.TrimPrefix(object, "at "))
		q.Kind = &nodev1.Query_Room{Room: &nodev1.RoomQuery{RoomId: at.Bytes()}}
	case "rooms":
		q.Kind = &nodev1.Query_RoomIds{RoomIds: &nodev1.RoomIDsQuery{}}
	case "friends":
		q.Kind = &nodev1.Query_ListFriends{ListFriends: &edgev1.ListFriendsRequest{}}
	case "devices":
		q.Kind = &nodev1.Query_Devices{Devices: &nodev1.DevicesQuery{}}
	case "me":
		q.Kind = &nodev1.Query_GetMe{GetMe: &edgev1.GetMeRequest{}}
	case "session":
		q.Kind = &nodev1.Query_Session{Session: &nodev1.SessionQuery{UserId: actor.Bytes(), DeviceId: s.device(who, object).Bytes()}}
	case "find":
		at = id.New(0, id.User, id.LoginPartition(FoldLogin(object)), nil)
		q.Kind = &nodev1.Query_Find{Find: &edgev1.FindRequest{Login: object}}
	case "credential":
		at = id.New(0, id.User, id.LoginPartition(FoldLogin(object)), nil)
		q.Kind = &nodev1.Query_Credential{Credential: &nodev1.CredentialQuery{Login: object}}
	case "person":
		other := s.user(object)
		p, err := Person(s.w.shardOf(other.Partition()).state, other, actor)
		if err != nil {
			return true, err
		}
		s.say("answer %s blocks me: %v", s.person(p.GetUser()), p.GetBlocksActor())
		return true, nil
	default:
		return false, nil
	}
	return true, s.query(s.w.shardOf(at.Partition()), q)
}

func (s *scenario) query(shard *testShard, q *nodev1.Query) error {
	reply, err := Answer(shard.state, q)
	if err != nil {
		return err
	}
	if e := reply.GetError(); e != nil {
		s.say("answer %s", s.refused(e))
		return nil
	}
	switch k := reply.GetKind().(type) {
	case *nodev1.QueryReply_Room:
		r := k.Room
		s.say("answer %s %s %q version %d, %d members, last %d, I joined at %d and read %d, unread %d, active %s",
			s.text(r.GetRoomId()), kindWord(r.GetKind()), r.GetTitle(), r.GetVersion(), r.GetMemberCount(), r.GetLastSeq(),
			r.GetMyJoinedSeq(), r.GetMyReadSeq(), r.GetUnread(), clockWord(r.GetActiveAt()))
		for _, m := range sortedMembers(s, r.GetMembers()) {
			s.say("       %s", m)
		}
		if r.GetLastMessage() != nil {
			s.say("       newest: %s", s.message(r.GetLastMessage()))
		}
	case *nodev1.QueryReply_History:
		s.say("answer %d messages, more: %v, last %d", len(k.History.GetMessages()), k.History.GetHasMore(), k.History.GetLastSeq())
		s.page(k.History)
	case *nodev1.QueryReply_RoomIds:
		var rooms []string
		for _, r := range k.RoomIds.GetRoomIds() {
			rooms = append(rooms, s.bytes(r))
		}
		slices.Sort(rooms)
		s.say("answer rooms: %s", strings.Join(rooms, ", "))
	case *nodev1.QueryReply_ListFriends:
		s.say("answer friends: %s; blocked: %s", s.people(k.ListFriends.GetFriends()), s.people(k.ListFriends.GetBlocked()))
	case *nodev1.QueryReply_Devices:
		var lines []string
		for _, d := range k.Devices.GetDevices() {
			lines = append(lines, fmt.Sprintf("%s %q since %s, seen %s", s.text(d.GetDeviceId()), d.GetName(), clockWord(d.GetCreatedAt()), clockWord(d.GetLastSeenAt())))
		}
		slices.Sort(lines)
		s.say("answer %d devices", len(lines))
		for _, l := range lines {
			s.say("       %s", l)
		}
	case *nodev1.QueryReply_GetMe:
		s.say("answer %s", s.person(k.GetMe.GetUser()))
	case *nodev1.QueryReply_Find:
		s.say("answer %s", s.person(k.Find.GetUser()))
	case *nodev1.QueryReply_Credential:
		s.say("answer %s has a password: %v", s.bytes(k.Credential.GetUserId()), k.Credential.GetPasswordHash() != "")
	case *nodev1.QueryReply_Session:
		x := k.Session
		s.say("answer known: %v, revoked: %v, token %d, confirmed: %v", x.GetKnown(), x.GetRevoked(), x.GetGeneration(), x.GetConfirmed())
	default:
		return fmt.Errorf("answer %T", k)
	}
	return nil
}

func (s *scenario) page(h *edgev1.ListResponse) {
	notices := h.GetNotices()
	flush := func(upTo uint64) {
		for len(notices) > 0 && notices[0].GetAfterSeq() <= upTo {
			n := notices[0]
			var who []string
			for _, x := range n.GetSubjectIds() {
				who = append(who, s.text(x))
			}
			s.say("       — %s %s by %s %s %q", clockWord(n.GetAt()), strings.ToLower(strings.TrimPrefix(n.GetKind().String(), "KIND_")), s.text(n.GetActorId()), strings.Join(who, ", "), n.GetTitle())
			notices = notices[1:]
		}
	}
	for _, m := range h.GetMessages() {
		flush(m.GetSeq() - 1)
		s.say("       %s", s.message(m))
	}
	flush(1 << 62)
}

func sortedMembers(s *scenario, members []*edgev1.Member) []string {
	var out []string
	for _, m := range members {
		out = append(out, fmt.Sprintf("%s joined at %d, read %d", s.text(m.GetUserId()), m.GetJoinedSeq(), m.GetReadSeq()))
	}
	slices.Sort(out)
	return out
}

func kindWord(k edgev1.RoomKind) string {
	return strings.ToLower(strings.TrimPrefix(k.String(), "ROOM_KIND_"))
}

func clockWord(ms int64) string { return time.UnixMilli(ms).UTC().Format("15:04:05") }

func (s *scenario) person(u *edgev1.User) string {
	if u == nil {
		return "nobody"
	}
	if u.GetLogin() == "" {
		return s.text(u.GetUserId())
	}
	return fmt.Sprintf("%s (login %s, %q)", s.text(u.GetUserId()), u.GetLogin(), u.GetDisplayName())
}

func (s *scenario) people(users []*edgev1.User) string {
	var out []string
	for _, u := range users {
		out = append(out, s.text(u.GetUserId()))
	}
	slices.Sort(out)
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

func (s *scenario) message(m *edgev1.Message) string {
	out := fmt.Sprintf("#%d %s %s as %s: %s, unread %d", m.GetSeq(), clockWord(m.GetSentAt()), s.text(m.GetSenderId()), s.clientName(m.GetClientId()), short(m.GetText()), m.GetUnread())
	if m.GetReplyTo() > 0 {
		out += fmt.Sprintf(", replying to #%d", m.GetReplyTo())
	}
	return out
}

func (s *scenario) clientName(u string) string {
	if n, ok := s.clients[u]; ok {
		return n
	}
	return u
}

func short(text string) string {
	if r := []rune(text); len(r) > 40 {
		return fmt.Sprintf("%q… (%d characters)", string(r[:10]), len(r))
	}
	return strconv.Quote(text)
}

func (s *scenario) bytes(raw []byte) string {
	if len(raw) == 0 {
		return "nobody"
	}
	if len(raw) != id.Size {
		return fmt.Sprintf("%x", raw)
	}
	if n, ok := s.names[id.ID(raw)]; ok {
		return n
	}
	return id.ID(raw).String()
}

func (s *scenario) text(t string) string {
	for i, n := range s.names {
		if i.String() == t {
			return n
		}
	}
	return t
}

func (s *scenario) list(raw [][]byte) string {
	var out []string
	for _, b := range raw {
		out = append(out, s.bytes(b))
	}
	if len(out) == 0 {
		return "nobody"
	}
	if len(out) > 12 {
		return fmt.Sprintf("%s … (%d)", strings.Join(out[:3], ", "), len(out))
	}
	return strings.Join(out, ", ")
}

func (s *scenario) refused(e *edgev1.Error) string {
	s.reasons[e.GetInfo().GetReason()] = true
	out := fmt.Sprintf("refused %s %s", e.GetCode(), e.GetInfo().GetReason())
	if f := e.GetInfo().GetField(); f != "" {
		out += " (" + f + ")"
	}
	if r := e.GetInfo().GetRetryAfterSeconds(); r > 0 {
		out += fmt.Sprintf(", try again in %g s", r)
	}
	return out
}

func (s *scenario) reply(r *nodev1.Reply) string {
	if e := r.GetError(); e != nil {
		return s.refused(e)
	}
	switch k := r.GetKind().(type) {
	case *nodev1.Reply_Message:
		return "message " + s.message(k.Message)
	case *nodev1.Reply_Refresh:
		return fmt.Sprintf("token %d", k.Refresh.GetGeneration())
	case *nodev1.Reply_User:
		return "user " + s.person(k.User)
	case *nodev1.Reply_Revoked:
		return "revoked " + s.list(k.Revoked.GetDeviceIds())
	}
	return "done"
}

func (s *scenario) effect(e *journalv1.Effect) string {
	switch k := e.GetKind().(type) {
	case *journalv1.Effect_RoomListed:
		return s.listed(k.RoomListed)
	case *journalv1.Effect_BlockNoted:
		return s.noted(k.BlockNoted)
	}
	return "?"
}

func (s *scenario) listed(l *journalv1.RoomListed) string {
	word := "listed for"
	if !l.GetListed() {
		word = "no longer listed for"
	}
	return fmt.Sprintf("%s %s %s, version %d", s.bytes(l.GetRoomId()), word, s.bytes(l.GetUserId()), l.GetVersion())
}

func (s *scenario) noted(b *journalv1.BlockNoted) string {
	word := "blocks in"
	if !b.GetBlocked() {
		word = "no longer blocks in"
	}
	return fmt.Sprintf("%s %s %s, version %d", s.bytes(b.GetBlockerId()), word, s.bytes(b.GetRoomId()), b.GetVersion())
}

func (s *scenario) event(ev *journalv1.Event) string {
	kind := EventKind(ev)
	switch k := ev.GetKind().(type) {
	case *journalv1.Event_AccountCreated:
		x := k.AccountCreated
		return fmt.Sprintf("%s %s login %s name %q friends %s", kind, s.bytes(x.GetUserId()), x.GetLogin(), x.GetDisplayName(), s.list(x.GetFriendIds()))
	case *journalv1.Event_DeviceAdded:
		return fmt.Sprintf("%s %s %q", kind, s.bytes(k.DeviceAdded.GetDeviceId()), k.DeviceAdded.GetName())
	case *journalv1.Event_DeviceRevoked:
		return fmt.Sprintf("%s %s because %s", kind, s.bytes(k.DeviceRevoked.GetDeviceId()), strings.ToLower(strings.TrimPrefix(k.DeviceRevoked.GetCause().String(), "CAUSE_")))
	case *journalv1.Event_RefreshRotated:
		return fmt.Sprintf("%s %s to token %d", kind, s.bytes(k.RefreshRotated.GetDeviceId()), k.RefreshRotated.GetGeneration())
	case *journalv1.Event_RefreshConfirmed:
		return fmt.Sprintf("%s %s token %d", kind, s.bytes(k.RefreshConfirmed.GetDeviceId()), k.RefreshConfirmed.GetGeneration())
	case *journalv1.Event_FriendAdded:
		return fmt.Sprintf("%s %s of %s", kind, s.bytes(k.FriendAdded.GetFriendId()), s.bytes(k.FriendAdded.GetUserId()))
	case *journalv1.Event_FriendRemoved:
		return fmt.Sprintf("%s %s of %s", kind, s.bytes(k.FriendRemoved.GetFriendId()), s.bytes(k.FriendRemoved.GetUserId()))
	case *journalv1.Event_Blocked:
		return fmt.Sprintf("%s %s by %s, version %d", kind, s.bytes(k.Blocked.GetBlockedId()), s.bytes(k.Blocked.GetUserId()), k.Blocked.GetVersion())
	case *journalv1.Event_Unblocked:
		return fmt.Sprintf("%s %s by %s, version %d", kind, s.bytes(k.Unblocked.GetBlockedId()), s.bytes(k.Unblocked.GetUserId()), k.Unblocked.GetVersion())
	case *journalv1.Event_RoomListed:
		return kind + " " + s.listed(k.RoomListed)
	case *journalv1.Event_BlockNoted:
		return kind + " " + s.noted(k.BlockNoted)
	case *journalv1.Event_RoomCreated:
		x := k.RoomCreated
		return fmt.Sprintf("%s %s %s %q by %s with %s", kind, s.bytes(x.GetRoomId()), kindWord(edgev1.RoomKind(x.GetKind())), x.GetTitle(), s.bytes(x.GetCreatorId()), s.list(x.GetMemberIds()))
	case *journalv1.Event_MembersJoined:
		return fmt.Sprintf("%s %s: %s, invited by %s", kind, s.bytes(k.MembersJoined.GetRoomId()), s.list(k.MembersJoined.GetMemberIds()), s.bytes(k.MembersJoined.GetInviterId()))
	case *journalv1.Event_MemberLeft:
		return fmt.Sprintf("%s %s: %s", kind, s.bytes(k.MemberLeft.GetRoomId()), s.bytes(k.MemberLeft.GetMemberId()))
	case *journalv1.Event_TitleChanged:
		return fmt.Sprintf("%s %s: %q by %s", kind, s.bytes(k.TitleChanged.GetRoomId()), k.TitleChanged.GetTitle(), s.bytes(k.TitleChanged.GetActorId()))
	case *journalv1.Event_MessageSent:
		x := k.MessageSent
		out := fmt.Sprintf("%s %s #%d %s: %s", kind, s.bytes(x.GetRoomId()), x.GetSeq(), s.bytes(x.GetSenderId()), short(x.GetText()))
		if x.GetReplyTo() > 0 {
			out += fmt.Sprintf(", replying to #%d", x.GetReplyTo())
		}
		return out
	case *journalv1.Event_ReadAdvanced:
		return fmt.Sprintf("%s %s: %s to %d", kind, s.bytes(k.ReadAdvanced.GetRoomId()), s.bytes(k.ReadAdvanced.GetMemberId()), k.ReadAdvanced.GetSeq())
	case *journalv1.Event_RoomStopped:
		return fmt.Sprintf("%s %s: %q", kind, s.bytes(k.RoomStopped.GetRoomId()), k.RoomStopped.GetCause())
	case *journalv1.Event_TailLost:
		x := k.TailLost
		return fmt.Sprintf("%s proven term %d index %d by %q", kind, x.GetProvenTerm(), x.GetProvenIndex(), x.GetProof())
	case *journalv1.Event_OutboxDone:
		return fmt.Sprintf("%s %d", kind, len(k.OutboxDone.GetKeys()))
	}
	return kind
}

func (s *scenario) feed(item *nodev1.FeedItem) string {
	var b bytes.Buffer
	if len(item.GetRoomId()) > 0 {
		fmt.Fprintf(&b, "%s:", s.bytes(item.GetRoomId()))
	} else {
		fmt.Fprintf(&b, "the devices of %s:", s.bytes(item.GetUserId()))
	}
	switch k := item.GetEvent().GetEvent().(type) {
	case *edgev1.Event_Message:
		fmt.Fprintf(&b, " message %s", s.message(k.Message.GetMessage()))
	case *edgev1.Event_Read:
		for _, c := range k.Read.GetChanges() {
			fmt.Fprintf(&b, " %s read %d→%d", s.text(c.GetUserId()), c.GetFromSeq(), c.GetToSeq())
		}
	case *edgev1.Event_Room:
		r := k.Room
		fmt.Fprintf(&b, " room %q version %d, %d members", r.GetTitle(), r.GetVersion(), r.GetMemberCount())
		for _, m := range r.GetJoined() {
			if len(r.GetJoined()) > 12 {
				fmt.Fprintf(&b, ", %d joined", len(r.GetJoined()))
				break
			}
			fmt.Fprintf(&b, ", %s joined at %d", s.text(m.GetUserId()), m.GetJoinedSeq())
		}
		for _, u := range r.GetLeftUserIds() {
			fmt.Fprintf(&b, ", %s left", s.text(u))
		}
		if n := r.GetNotice(); n != nil {
			fmt.Fprintf(&b, ", notice %s after #%d", strings.ToLower(strings.TrimPrefix(n.GetKind().String(), "KIND_")), n.GetAfterSeq())
		}
	case *edgev1.Event_People:
		b.WriteString(" people or devices changed")
	}
	if len(item.GetSubscribe()) > 0 {
		fmt.Fprintf(&b, " [subscribe %s]", s.list(item.GetSubscribe()))
	}
	if len(item.GetUnsubscribe()) > 0 {
		fmt.Fprintf(&b, " [unsubscribe %s]", s.list(item.GetUnsubscribe()))
	}
	if len(item.GetRevokedDeviceIds()) > 0 {
		fmt.Fprintf(&b, " [revoked %s]", s.list(item.GetRevokedDeviceIds()))
	}
	return b.String()
}
