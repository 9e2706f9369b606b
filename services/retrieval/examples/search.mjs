// Radar patch in, optical patches out, from Node.js:
//   npm install @grpc/grpc-js @grpc/proto-loader
//   node search.mjs 127.0.0.1:8081 PATCH_ID PATH/TO/proto
// With TLS and a token: grpc.credentials.createSsl(readFileSync("ca.pem")) and metadata.set("authorization", "Bearer ...").
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [target, patchId, protoRoot] = process.argv.slice(2);
const definition = await loader.load("eoforge/api/retrieval/v1/retrieval.proto", {
  includeDirs: [protoRoot],
  enums: String,
  longs: Number,
});
const { RetrievalService } = grpc.loadPackageDefinition(definition).eoforge.api.retrieval.v1;
const client = new RetrievalService(target, grpc.credentials.createInsecure());

const request = {
  patchId,
  queryModality: "MODALITY_S1",
  targetModality: "MODALITY_S2",
  pageSize: 5,
  filter: { excludeCloud: true },
};
client.search(request, new grpc.Metadata(), { deadline: Date.now() + 10_000 }, (error, response) => {
  if (error) {
    console.error(grpc.status[error.code], error.details);
    process.exit(1);
  }
  for (const { patch, distance } of response.hits) {
    console.log(distance, patch.patchId, patch.country, (patch.labels ?? []).join("; "));
  }
  client.close();
});
