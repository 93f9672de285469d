// Judges an image with an exported file, model.onnx or model.xml. Needs only OpenVINO:
//   g++ -std=c++17 predict.cpp -I<openvino>/include -L<openvino>/libs -l:libopenvino.so.<version> -o predict
//   ./predict model.onnx image.ppm
// To use a camera, pass its RGB buffer instead of the PPM picture that is read here.
#include <cstdint>
#include <fstream>
#include <iostream>
#include <openvino/openvino.hpp>
#include <string>
#include <vector>

int main(int count, char** arguments) {
    if (count < 3) {
        std::cerr << "usage: predict MODEL IMAGE.ppm\n";
        return 2;
    }
    std::ifstream file(arguments[2], std::ios::binary);
    std::string kind;
    std::size_t width = 0, height = 0, largest = 0;
    if (!(file >> kind >> width >> height >> largest) || kind != "P6" || largest != 255) {
        std::cerr << arguments[2] << " is not a binary 8-bit PPM picture\n";
        return 2;
    }
    file.get();
    std::vector<std::uint8_t> pixels(width * height * 3);
    file.read(reinterpret_cast<char*>(pixels.data()), static_cast<std::streamsize>(pixels.size()));

    ov::Core core;
    auto graph = core.read_model(arguments[1]);
    // with a dynamic batch size, OpenVINO 2026.4 returns wrong results the first time it sees each size
    graph->reshape({{"pixels", ov::PartialShape{1, -1, -1, 3}}});
    auto model = core.compile_model(graph, "CPU", ov::hint::inference_precision(ov::element::f32));
    auto request = model.create_infer_request();
    request.set_tensor("pixels", ov::Tensor(ov::element::u8, {1, height, width, 3}, pixels.data()));
    request.infer();
    const float score = request.get_tensor("score").data<float>()[0];
    const bool nok = request.get_tensor("nok").data<bool>()[0];
    std::cout.precision(9);
    std::cout << score << "\t" << (nok ? "NOK" : "OK") << "\n";
}
