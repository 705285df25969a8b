// Package overload decides which requests are served when not all can be.
//
// Vocabulary: a class is the priority of a request, highest first (DESIGN §2);
// a method has one class of its own, and a client may lower it, never raise
// it. Admission says yes or no before any work is done; a refusal carries a
// retry hint. The slots are the concurrency limit of expensive work (Argon2)
// with a bounded queue that serves the newest waiter first, because the oldest
// has probably given up.
//
// Concurrency: every type here is safe for concurrent use. Admission and the
// hints are functions of numbers and of the time they are given: they read no
// clock and start nothing. Only Slots waits, on its caller's context.
//
// What it does not do yet: measure queueing time and steer a threshold by it.
// Admission enforces fixed bounds; the adaptive controller takes its place
// behind the same two methods.
package overload

import "time"

// Class is the priority of a request. The numbers are those of the public
// protocol (edge.v1.Class); 0 is no class.
type Class uint8

// The classes, highest priority first.
const (
	Send    Class = 1 // sending a message
	Resume  Class = 2 // signing in, coming back, seeing one's rooms
	Receipt Class = 3 // read cursors, and the small safety acts (blocking)
	History Class = 4 // reading back, arranging rooms and friends
	Media   Class = 5
	Search  Class = 6
	Typing  Class = 7
	Tab     Class = 8 // everything that is not messages
)

// Classes is one more than the highest class: the length of a table by class.
const Classes = 9

var classNames = [Classes]string{"none", "send", "resume", "receipt", "history", "media", "search", "typing", "tab"}

// String returns the name used in metrics and logs.
func (c Class) String() string {
	if c >= Classes {
		return "none"
	}
	return classNames[c]
}

// Valid tells whether c is one of the named classes.
func (c Class) Valid() bool { return c >= Send && c < Classes }

// methods is the class of every method of the public API by its bare name,
// which is unique across services and is the name of the socket's request.
var methods = map[string]Class{
	"Send": Send,

	"Hello": Resume, "Ping": Resume, "SignUp": Resume, "SignIn": Resume, "Refresh": Resume,
	"RevokeDevice": Resume, "GetMe": Resume, "ListRooms": Resume, "GetRoom": Resume, "OpenDirect": Resume,

	"MarkRead": Receipt, "Block": Receipt, "Unblock": Receipt,

	"List": History, "ListFriends": History, "ListDevices": History, "CreateGroup": History, "Invite": History,
	"Leave": History, "SetTitle": History, "AddFriend": History, "RemoveFriend": History,

	"Find": Search,

	"Typing": Typing,
}

// Of returns the class of a method by its bare name ("Send", "ListRooms"). A
// method nobody listed is a Tab: forgetting one must not cost messages.
func Of(method string) Class {
	if c, ok := methods[method]; ok {
		return c
	}
	return Tab
}

// Lower returns the lower priority of a method's own class and the one that a
// client wishes; an invalid wish is ignored.
func Lower(own, wish Class) Class {
	if wish.Valid() && wish > own {
		return wish
	}
	return own
}

// deadlines by class: what a request without one gets, and the most it may ask for.
var deadlines = [Classes]struct{ standard, most time.Duration }{
	Send:    {10 * time.Second, 60 * time.Second},
	Resume:  {10 * time.Second, 60 * time.Second},
	Receipt: {10 * time.Second, 60 * time.Second},
	History: {10 * time.Second, 60 * time.Second},
	Media:   {10 * time.Second, 60 * time.Second},
	Search:  {10 * time.Second, 30 * time.Second},
	Typing:  {2 * time.Second, 5 * time.Second},
	Tab:     {10 * time.Second, 30 * time.Second},
}

// Deadline returns how long a request of class c may take when its client asks
// for wish; 0 or less asks for the default. A wish above the class's bound is
// cut to it.
func Deadline(c Class, wish time.Duration) time.Duration {
	if !c.Valid() {
		c = Tab
	}
	d := deadlines[c]
	switch {
	case wish <= 0:
		return d.standard
	case wish > d.most:
		return d.most
	}
	return wish
}

// Known tells whether a method has been given a class.
func Known(method string) bool {
	_, ok := methods[method]
	return ok
}
