// The smallest device that MQTT.js makes: it publishes sales with QoS 1 and leaves the rest to the library.
const { randomUUID } = require("node:crypto");
const mqtt = require("mqtt");

const client = mqtt.connect({
  host: "127.0.0.1",
  port: Number(process.argv[2]),
  username: "till-1",
  clientId: "till-1",
  protocolVersion: 5,
  clean: false,
  reconnectPeriod: 1000,
});
const epoch = randomUUID();
let last = 0;
client.on("error", () => {});
setInterval(() => {
  last += 1;
  const event = {
    specversion: "1.0",
    id: randomUUID(),
    source: "/devices/till-1",
    type: "pos.payment.captured",
    epoch,
    sequence: String(last).padStart(20, "0"),
    data: { payment_id: randomUUID(), amount: { amount: 1250, currency: "GBP" }, tender: "cash" },
  };
  client.publish("pos/v1/till-1/events", JSON.stringify(event), { qos: 1 }, () => {});
}, 100);
